"""The bytes of an archive: container, header, index, embedded model, journal."""
