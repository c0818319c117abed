"""The channel layer: nodes that hold channels, and the clusters that they form."""
