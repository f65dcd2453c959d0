"""What the driver does: settings, manifest, plan of pools, the Ray Data graph, the ledger of results, progress."""
