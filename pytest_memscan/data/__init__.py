"""Training and held-out images: where they come from, reading, conversion.

::

    sources.py     what the user typed -> which files or repository; imported early: light
    listing.py     the files behind a source, found without opening them; the same at the end?
    readers/       one module a format: files -> records, one after the other
    conversion.py  one record -> the pixels a checkpoint was trained on
    images.py      records of any format -> one memory-mapped array, every bad one named
    pixel_file.py  the file in the cache behind that array
    naming.py      names of files in messages
"""
