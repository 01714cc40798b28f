"""The published claims on trial: each one as data, its formula evaluated with the bounds that printing leaves."""
