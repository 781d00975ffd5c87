"""Parts of the fixture trainer: corpus, model with its MTP block, checkpoint folder."""
