"""Languages of flat code: one module each, with a function `write` from a `Listing` to text; see `chainrule.view.source`."""
