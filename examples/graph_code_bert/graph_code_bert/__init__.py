"""GraphCodeBERT for sentence-transformers: code, and the data flow between its variables."""

from graph_code_bert.data_flow import DataFlow, extract_data_flow
from graph_code_bert.transformer import GraphCodeBERT

__all__ = ["DataFlow", "GraphCodeBERT", "extract_data_flow"]
