"""From a calibrated scan to pictures: classical and learned methods behind one contract."""
