"""The tables of the report: each function takes the evidence and gives one frozen Table."""
