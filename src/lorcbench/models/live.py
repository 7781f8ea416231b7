"""lm-eval's class for a model in memory: batches of about so many tokens, and one line where it would fail or cut quietly."""

from __future__ import annotations

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from lorcbench.models.task_definitions import HarnessError


def live_model(model, tokenizer, batch_tokens: int, length: int) -> Live:
    """A model in memory as lm-eval takes it.

    Args:
        batch_tokens: tokens of the requests, padding included, that go through the model at once.
        length: tokens in the model's longest sequence.
    """
    live_class = Live if _has_prefix(tokenizer) else WithoutPrefix
    device = str(next(model.parameters()).device)
    live = live_class(pretrained=model, tokenizer=tokenizer, batch_size="auto", device=device, max_length=length)
    live.batch_tokens = batch_tokens
    return live


def prefix_token(tokenizer, live: Live) -> dict:
    """Number and text of the token before a text without context; None and no text if the tokenizer has none."""
    if not _has_prefix(tokenizer):
        return {"id": None, "text": ""}
    return {"id": live.prefix_token_id, "text": tokenizer.decode([live.prefix_token_id])}


def _has_prefix(tokenizer) -> bool:
    return tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None


def batch_sizes(lengths: list[int], batch_tokens: int) -> list[int]:
    """For each request, the longest first, the size of the batch that it is in, padded to the batch's longest."""
    sizes: list[int] = []
    while len(sizes) < len(lengths):
        size = max(1, batch_tokens // max(1, lengths[len(sizes)]))
        sizes += [size] * size
    return sizes[: len(lengths)]


class Live(HFLM):
    """lm-eval's class for a model in memory.

    Attributes:
        batch_tokens: as `live_model` takes it.
        truncated: requests of the task that was begun last whose prompts were cut at the left, as lm-eval does with those
            that are longer than the window.
    """

    batch_tokens: int
    truncated = 0
    _task = ""
    _longest: int | None = None
    _sizes: tuple[int, ...] = ()

    def begin(self, task: str) -> None:
        """The requests from now on are those of a task."""
        self._task, self.truncated = task, 0

    def _detect_batch_size(self, requests=None, pos: int = 0) -> int:
        """lm-eval asks for it where it knows no single requests: before windows of a text, and before it generates."""
        return max(1, self.batch_tokens // (self._longest or self.max_length))

    def _batch_scheduler(self, pos: int, n_reordered_requests) -> int:
        """The size of the batch that request `pos` is in; lm-eval hands over all of them, the longest first."""
        if pos == 0:
            lengths = [min(len(context) + len(end) - 1, self.max_length) for _, context, end in n_reordered_requests]
            self._sizes = batch_sizes(lengths, self.batch_tokens)
        return self._sizes[pos]

    def _loglikelihood_tokens(self, requests, *args, **options):
        self.truncated += sum(len(context) + len(end) > self.max_length + 1 for _, context, end in requests)
        return super()._loglikelihood_tokens(requests, *args, **options)

    def generate_until(self, requests, *args, **options) -> list[str]:
        """lm-eval's, in batches by the longest prompt, and refused where it could not end or would not fit.

        Raises:
            HarnessError: the tokenizer names no end of a text, or the window has no room for a prompt.
        """
        if self.tokenizer.eos_token_id is None:
            where = self.tokenizer.name_or_path or "the tokenizer"
            raise HarnessError(f"task {self._task}: generates text, and {where} names no eos_token at which it would end")
        if not 0 <= (self.tokenizer.pad_token_id or 0) < self.model.get_input_embeddings().num_embeddings:
            self.tokenizer.pad_token_id = self.tokenizer.eos_token_id  # what stands there is masked, but has to be a token
        self._longest = 1
        for request in requests:
            prompt, settings = request.args
            new = normalize_gen_kwargs(settings, self.max_gen_toks)["max_gen_toks"]
            room = self.max_length - new
            if room < 1:
                expected = f"a protocol with a longer window, or a smaller max_gen_toks, as in {self._task}+max_gen_toks=64"
                said = f"generates up to {new} tokens, but the window has {self.max_length}"
                raise HarnessError(f"task {self._task}: {said}; expected {expected}")
            tokens = len(self.tok_encode(prompt))
            self.truncated += tokens > room
            self._longest = max(self._longest, min(tokens, room) + new)
        try:
            return super().generate_until(requests, *args, **options)
        finally:
            self._longest = None


class WithoutPrefix(Live):
    """For a tokenizer without BOS and EOS: does without where it can.

    lm-eval puts BOS, else EOS, before a text without context. It also asks for that token where nothing needs it: to see
    whether a text begins with it.
    """

    @property
    def prefix_token_id(self) -> int:
        where = self.tokenizer.name_or_path or "the tokenizer"
        raise HarnessError(
            f"{where}: names neither bos_token nor eos_token, of which lm-eval puts one before a text without context; "
            "name one in tokenizer_config.json, or choose tasks that need none"
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options) -> list[int]:
        own = self.add_bos_token if self.add_bos_token is not None else True  # as lm-eval chooses where it has a prefix
        return super().tok_encode(string, own if add_special_tokens is None else add_special_tokens, **options)
