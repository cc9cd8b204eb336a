"""Training on simulated acquisitions: images, a random scanner, losses, a resumable loop."""
