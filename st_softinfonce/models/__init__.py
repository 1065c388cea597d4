"""Models of code that sentence-transformers does not have."""

from st_softinfonce.models.data_flow import DataFlow, extract_data_flow
from st_softinfonce.models.graph_code_bert import GraphCodeBERT

__all__ = ["DataFlow", "GraphCodeBERT", "extract_data_flow"]
