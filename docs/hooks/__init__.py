"""Parts of the site beside the files of ``docs``: pages made from the code, and files of the rest of the repository."""
