"""The measuring code: everything here is hashed into each record, and a change to it measures every pair again."""
