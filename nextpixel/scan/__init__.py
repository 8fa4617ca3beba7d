"""One pass over images, place by place: the raster loop, its choosers and jobs, and fixed-point iteration."""
