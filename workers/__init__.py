"""Workers: raw events in, token batches with a checkpoint out."""
