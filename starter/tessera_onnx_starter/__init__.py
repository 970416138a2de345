"""Model folders for tessera-onnx. Data only: the runtime reads the folders, never this module."""
