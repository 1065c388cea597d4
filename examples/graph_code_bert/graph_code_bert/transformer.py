"""GraphCodeBERT: a RoBERTa that reads code together with the data flow between its variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from graph_code_bert.data_flow import DataFlow, extract_data_flow
from graph_code_bert.syntaxes import check_language

_ATTENTION = ("eager", "sdpa")


class GraphCodeBERT(Transformer):
    """A sentence-transformers input module that feeds code and its data flow to a RoBERTa.

    As Guo et al. (2021, GraphCodeBERT, section 4) have it: behind the tokens stands a node for each variable, at
    position 0, its embedding the mean of those of the tokens it is written with. Tokens attend to each other; a node
    and its tokens attend to each other; a node attends to itself and to the nodes its value comes from; ``<s>`` and
    ``</s>`` attend to everything. Only texts with the task ``"document"`` are taken for code (``encode_document``,
    ``router_mapping={"code": "document"}`` in training); of those that do not parse, and of all others, the tokens
    alone are read. What comes out are the tokens, so that any pooling of the host's may follow.

    Code is read as its tokens with a space between any two, without comments (see :class:`DataFlow`). Of the nodes,
    those stay whose tokens were not cut off. A saved model names this class: load it with
    ``SentenceTransformer(path, trust_remote_code=True)`` where the distribution ``graph-code-bert`` is installed.

    Args:
        model_name_or_path: A RoBERTa, such as ``"microsoft/graphcodebert-base"``.
        language: What the code is written in; see :func:`extract_data_flow`.
        data_flow_length: At least 0. At most so many nodes, the first ones; 0 is plain RoBERTa.
        options: Those of :class:`sentence_transformers.base.modules.Transformer`, such as ``query_length=128`` and
            ``document_length=256``.

    Shape:
        ``input_ids`` and ``attention_mask`` are ``(n, length)``, tokens only, as for any text. Where a text of the
        batch has nodes, ``node_tokens`` ``(n, length, nodes)`` says which tokens each is written with, and
        ``node_sources`` ``(n, nodes, nodes)`` where its value comes from, both bool. Tokens come first, as in all of
        the host's features, which it may cut to a shorter length.

    Raises:
        ValueError: An option is out of range, the model is no RoBERTa, or its attention takes no mask.
    """

    config_keys: list[str] = [*Transformer.config_keys, "language", "data_flow_length"]  # noqa: RUF012 - the host's

    def __init__(self, model_name_or_path: str, *, language: str, data_flow_length: int = 64, **options: Any) -> None:
        check_language(language)
        if isinstance(data_flow_length, bool) or not isinstance(data_flow_length, int) or data_flow_length < 0:
            raise ValueError(f"data_flow_length must be an integer of at least 0, got {data_flow_length!r}.")
        super().__init__(model_name_or_path, **options)
        self.language = language
        self.data_flow_length = data_flow_length
        if self.config.model_type != "roberta":
            raise ValueError(
                f"model_name_or_path must be a RoBERTa, got the type {self.config.model_type!r}: GraphCodeBERT's "
                "nodes stand at RoBERTa's position 0. Use a plain Transformer for other models."
            )
        attention = self.config._attn_implementation
        if attention not in _ATTENTION:
            raise ValueError(
                f"attn_implementation must be one of {_ATTENTION}, got {attention!r}: attention along the data flow "
                'is a mask. Pass model_kwargs={"attn_implementation": "sdpa"}.'
            )

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Tokenize texts and, for code, add the data flow.

        Args:
            inputs: Texts; code if ``task="document"`` is among the further arguments.
            prompt: What to put in front of each text; no part of the data flow.
            processing_kwargs: See the host.
            kwargs: See the host.

        Returns:
            The host's features, with ``node_tokens`` and ``node_sources`` where any text has data flow.
        """
        is_code = kwargs.get("task") == "document" and all(isinstance(text, str) for text in inputs)
        if not is_code or not inputs:
            features: dict[str, Any] = super().preprocess(inputs, prompt, processing_kwargs, **kwargs)
            return features
        flows = [extract_data_flow(text, self.language) for text in inputs]
        texts = [text if flow is None else flow.text for text, flow in zip(inputs, flows, strict=True)]
        options: Any = dict(processing_kwargs or {})
        options["text"] = {**options.get("text", {}), "return_offsets_mapping": True}
        features = super().preprocess(texts, prompt, options, **kwargs)
        offsets = features.pop("offset_mapping") - len(prompt or "")
        nodes = [self._nodes(flow, row) for flow, row in zip(flows, offsets, strict=True)]
        count = max(len(sources) for _, sources in nodes)
        if count:
            node_tokens = torch.zeros(len(texts), offsets.size(1), count, dtype=torch.bool)
            node_sources = torch.zeros(len(texts), count, count, dtype=torch.bool)
            for row, (tokens, sources) in enumerate(nodes):
                node_tokens[row, :, : len(sources)] = tokens
                node_sources[row, : len(sources), : len(sources)] = sources
            features |= {"node_tokens": node_tokens, "node_sources": node_sources}
        return features

    def _nodes(self, flow: DataFlow | None, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Match the variables of a text with its tokens, and keep those that have any, up to the limit.

        Returns:
            ``(length, nodes)`` and ``(nodes, nodes)``, bool.
        """
        variables = torch.tensor(() if flow is None else flow.variables, dtype=torch.int64).reshape(-1, 2)
        start, end = offsets[:, :1], offsets[:, 1:]  # (length, 1) each; the same for special tokens
        tokens = (start < variables[:, 1]) & (end > variables[:, 0]) & (end > start)
        sources = torch.zeros(len(variables), len(variables), dtype=torch.bool)
        for number, row in enumerate(() if flow is None else flow.sources):
            sources[number, list(row)] = True
        kept = tokens.any(dim=0).nonzero().flatten()[: self.data_flow_length]
        return tokens[:, kept], sources[kept][:, kept]

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Embed the tokens, with the nodes beside them where there are any.

        Args:
            features: See :meth:`preprocess`.
            kwargs: See the host.

        Returns:
            The features, with the host's ``token_embeddings`` ``(n, length, D)``, or what else the model was set up to
            give out.
        """
        node_tokens = features.get("node_tokens")
        if node_tokens is None:
            plain: dict[str, Any] = super().forward(features, **kwargs)
            return plain
        ids, length = features["input_ids"], features["input_ids"].size(1)
        padding = self.config.pad_token_id
        is_node = node_tokens.any(dim=1)  # (n, nodes)
        is_token = ids != padding
        # RoBERTa's own positions for the tokens, which it does not find by itself where embeddings are given.
        positions = torch.cat([is_token.cumsum(dim=1) * is_token + padding, (~is_node) * padding], dim=1)
        embeddings = self.model.get_input_embeddings()(ids)  # (n, length, D)
        mean = node_tokens.transpose(1, 2).to(embeddings.dtype)
        mean = mean / mean.sum(dim=2, keepdim=True).clamp(min=1)
        outputs: dict[str, Any] = super().forward(
            {
                "inputs_embeds": torch.cat([embeddings, mean @ embeddings], dim=1),
                "position_ids": positions,
                "attention_mask": self._mask(self.attention(features), embeddings.dtype),
                "modality": features.get("modality", "text"),
            },
            **kwargs,
        )
        output = outputs[self.module_output_name]
        features[self.module_output_name] = output[:, :length] if output.dim() == 3 else output
        if "all_layer_embeddings" in outputs:
            features["all_layer_embeddings"] = tuple(layer[:, :length] for layer in outputs["all_layer_embeddings"])
        return features

    def attention(self, features: dict[str, Any]) -> Tensor:
        """Say what may attend to what.

        Args:
            features: With ``node_tokens`` and ``node_sources``.

        Returns:
            ``(n, length + nodes, length + nodes)`` bool: row attends to column. Padding, to which nothing attends,
            attends to the tokens or to itself, since a softmax over nothing is nan.
        """
        ids, nodes_of = features["input_ids"], features["node_tokens"]
        n, length, nodes = nodes_of.shape
        is_token = features["attention_mask"].bool()
        is_node = nodes_of.any(dim=1)
        tokenizer: Any = self.tokenizer
        special = torch.isin(ids, ids.new_tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
        to_tokens = is_token.unsqueeze(1).expand(n, length, length)
        to_nodes = nodes_of | (special.unsqueeze(2) & is_node.unsqueeze(1))
        itself = torch.eye(nodes, dtype=torch.bool, device=ids.device)
        of_nodes = torch.cat([nodes_of.transpose(1, 2), features["node_sources"] | itself], dim=2)
        return torch.cat([torch.cat([to_tokens, to_nodes], dim=2), of_nodes], dim=1)

    def _mask(self, allowed: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn a mask into what the model's attention takes, ``(n, 1, length, length)``."""
        allowed = allowed.unsqueeze(1)
        if self.config._attn_implementation == "sdpa":
            return allowed
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)

    def __repr__(self) -> str:
        """Name the class, which the host's does not."""
        return super().__repr__().replace("Transformer", type(self).__name__, 1)
