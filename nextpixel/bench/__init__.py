"""How fast each architecture is on this machine, beside what its arithmetic would allow: the verb `nextpixel bench`."""
