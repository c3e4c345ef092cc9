"""What tests of the bridge share: worlds in one process, panels, stores, and builders."""
