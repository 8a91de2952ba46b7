"""Task typing: three labellers behind one signature, which is `labeller.Labeller`."""
