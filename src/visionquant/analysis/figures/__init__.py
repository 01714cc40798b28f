"""The figures of the report: each function takes the evidence and gives one frozen Figure, an SVG with its caption."""
