"""One pass over an image, place by place: the loop, what it chooses by, and its slow references."""
