"""Trying a run by breaking it: a cluster, a store and a driver on this machine, and blows at all of them."""
