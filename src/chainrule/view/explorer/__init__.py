"""The explorer page: a program's graph, stepped through forward and backward in a browser, in one file without any request."""
