"""From records to statements: pure functions over frozen values; numpy, scipy, pandas and matplotlib, never torch."""
