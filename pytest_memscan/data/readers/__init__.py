"""One module a format: files -> records, one after the other, never all in memory.

::

    folder.py      one file an image, captions and labels in metadata.jsonl or metadata.csv
    captions.py    those two files
    labels.py      what counts as the class label of an image
    rows.py        lines of text, JSON Lines and CSV, also of prompts
    parquet.py     .parquet shards, also of a dataset on the Hub
    arrow.py       .arrow shards, as `datasets` saves them
    columns.py     which columns of such a table hold images, captions and labels
    webdataset.py  .tar shards
    npz.py         an array of images, and one of labels
    hub.py         org/name[@revision] -> its .parquet shards
    hub_files.py   files of one commit, verified, also of prompts
    prompt_lists.py  lists of prompts: .txt, .jsonl, .csv, .parquet, captions of a folder, the Hub
    prompt_table.py  the column of texts of a .parquet file
"""
