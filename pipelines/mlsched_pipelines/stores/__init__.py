"""Where datasets live: durable files, Arrow shards and the conditional commit of manifests."""
