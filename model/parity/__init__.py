"""Comparisons with recordings of the original code, which hold for recordings of any size.

`suite` runs them all, `report` says what a comparison is and when it passes; the other modules each compare a part.
They need torch, safetensors, einops, numpy and diffusers, so that they run on a bare GPU machine.
"""
