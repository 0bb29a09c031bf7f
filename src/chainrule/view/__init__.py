"""Looking at graphs: as flat code, as pictures, as pages, and in words. Nothing below needs it."""
