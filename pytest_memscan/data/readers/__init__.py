"""One module a format: files -> records, one after the other, never all in memory.

::

    folder.py      one file an image, captions in metadata.jsonl or metadata.csv
    captions.py    those two files
    parquet.py     .parquet shards, also of a dataset on the Hub
    arrow.py       .arrow shards, as `datasets` saves them
    columns.py     which columns of such a table hold images and captions
    webdataset.py  .tar shards
    npz.py         an array of images
    hub.py         org/name[@revision] -> its .parquet shards
"""
