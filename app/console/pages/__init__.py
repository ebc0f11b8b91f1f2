"""One file a page, with its `blueprint`: the listing is the map of the console."""
