"""One module a page: its tables, its figures and the words around them; notebooks call them one a cell."""
