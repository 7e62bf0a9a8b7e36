"""The cluster: nodes that know of each other, and what is told and asked among them."""
