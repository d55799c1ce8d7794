"""The OCI image format: documents and layouts."""
