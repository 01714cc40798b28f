"""The published claims, checked: each as data, its formula evaluated with the bounds that printing leaves."""
