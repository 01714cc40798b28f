"""From figures to something to read: notebooks executed by papermill, pages in one shell, five lines for a terminal."""
