"""How much a row of a manifest may ask of the machines: what is beyond is refused before it costs anything."""

MAX_ROW_BYTES = 2**20
"""Of one line of a manifest, and of one cell of a CSV file."""

MAX_PROMPT_CHARACTERS = 20_000
"""Of all its parts together. The encoder uses the first 640 tokens, about 3,000 letters; what is above is a mistake."""

MAX_METADATA_BYTES = 65_536
"""Of the metadata as JSON in UTF-8; every clip's record and a row of the results carry it."""

MAX_DEPTH = 50
"""Levels of nesting of a value."""

MAX_REFERENCE_CHARACTERS = 4_096
"""Of a path or URL; a presigned URL has about 1,500."""

MAX_IMAGE_BYTES = 64 * 10**6
MAX_IMAGE_PIXELS = 80_000_000
MAX_IMAGE_SIDE = 16_384
"""Pixels of the longer side."""

MAX_AUDIO_BYTES = 512 * 10**6
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 4_000, 768_000
"""Of a recording. A lower rate turns a few bytes into hours of samples."""
MAX_CHANNELS = 64
