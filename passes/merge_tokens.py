# SPDX-License-Identifier: Apache-2.0
"""merge-tokens: a transformer's tokens that resemble each other become one, block by block, without training.

The method is ToMe (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023) as a rewrite of the graph; the
operators are those of `sparsec.compiler.tokens`. Padding counts for nothing: a masked token has size 0, and merges
first. What needs every token in its place (a dense head, a pooling with a mask, an output) gets un-merged tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import onnx_ir as ir

from sparsec.compiler.errors import PassError, RecipeError
from sparsec.compiler.layers import matches
from sparsec.compiler.options import unknown
from sparsec.compiler.pass_manager import LayerRecord, Pass, PassContext, PassResult
from sparsec.compiler.survey import multiply_accumulates
from sparsec.compiler.tokens import MATCH, is_token_operator, most_mergeable
from sparsec.passes.token_merging.blocks import Block, find_blocks, leading_tokens
from sparsec.passes.token_merging.rewrite import Plan, rewrite
from sparsec.passes.token_merging.schedule import capped, first_excess, least, schedule, shares, spread

_DEFAULT_MACS = 0.7


@dataclass(frozen=True)
class MergeTokens(Pass):
    """At most one of `r`, `ratio` and `macs` is given; none is macs=0.7. Blocks are named by their attention's Softmax.

    Attributes:
        r: Tokens merged in each block, on average over the blocks if `inflect` is not 0.
        ratio: Share of the tokens that reach a block, protected ones apart, that merge in it; at most 0.5.
        macs: Share of the model's multiply-accumulates to keep, by the fewest merges that get there, spread as `r` is,
            as far as so many can merge.
        inflect: How `r` changes from the first block to the last, linearly: -1 from 2 r to 0, 0 constant, 1 from 0
            to 2 r; numbers are rounded down.
        start: Share of the blocks, from the first on and rounded down, in which nothing merges.
        metric: What tokens are compared by: ``keys``, the mean of the heads' keys; ``tokens``, the values that merge.
        protected: Tokens at the front that never merge; left out, as many as are put in front of the others or read by
            themselves, such as a class token.
        proportional: Whether attention counts a token as often as it has members.
        unmerge: ``auto``: what reads protected tokens alone gets merged ones; ``always``: it does not; ``never``: an
            error if anything needs all tokens.
        ignore: Blocks in which nothing merges, by name or glob.

    Raises:
        RecipeError: If an option is out of range, or more than one of the three is given.
    """

    name: ClassVar[str] = "merge-tokens"
    requires: ClassVar[tuple[str, ...]] = ("static-shapes",)
    stage: ClassVar[str] = "tokens"
    r: int | None = None
    ratio: float | None = None
    macs: float | None = None
    inflect: float = 0.0
    start: float = 0.0
    metric: Literal["keys", "tokens"] = "keys"
    protected: int | None = None
    proportional: bool = True
    unmerge: Literal["auto", "always", "never"] = "auto"
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = self._given
        if len(given) > 1:
            msg = f"Pass '{self.name}': options {' and '.join(map(repr, given))} are both given, expected one of them."
            raise RecipeError(msg)
        self._check("r", self.r is None or self.r >= 0, "at least 0")
        self._check("ratio", self.ratio is None or 0 <= self.ratio <= 0.5, "0 to 0.5: at most half of them can merge")
        self._check("macs", self.macs is None or 0 < self.macs <= 1, "more than 0 and at most 1")
        self._check("inflect", -1 <= self.inflect <= 1, "-1 to 1")
        self._check("inflect", not self.inflect or self.ratio is None, "0 where 'ratio' is given")
        self._check("start", 0 <= self.start < 1, "at least 0 and less than 1")
        found_out = "at least 0, or no 'protected' to find out"
        self._check("protected", self.protected is None or self.protected >= 0, found_out)

    @property
    def _given(self) -> list[str]:
        return [option for option in ("r", "ratio", "macs") if getattr(self, option) is not None]

    @property
    def _target(self) -> float | None:
        """The share of multiply-accumulates to keep; None where that is not what was asked for."""
        return self.macs if self._given else _DEFAULT_MACS

    def _check(self, option: str, holds: bool, expected: str) -> None:
        if not holds:
            msg = f"Pass '{self.name}': option '{option}' is {getattr(self, option):g}, expected {expected}."
            raise RecipeError(msg)

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """See the module.

        Raises:
            PassError: If the model has no attention that tokens can merge behind, more tokens are to merge than can,
                or `macs` cannot be reached.
        """
        merged = [node.name or MATCH for node in model.graph if is_token_operator(node, MATCH)]
        if merged:
            records = (LayerRecord(name, "its tokens are merged already", skipped=True) for name in merged)
            return PassResult(model, changed=False, records=tuple(records))
        model.graph.sort()
        blocks, others = find_blocks(model.graph)
        chosen, skipped = self._choose(blocks, others)
        protected = self._protected(model, blocks[0])
        counts = self._counts(model, blocks, chosen, protected)
        if not any(counts.values()):
            return PassResult(model, changed=False, records=tuple(skipped))
        rewrite(model, blocks, self._plan(counts, protected), self.failure)
        return PassResult(model, True, (*_records(blocks, counts), *skipped))

    def _choose(self, blocks: list[Block], others: list[tuple[str, str]]) -> tuple[list[Block], list[LayerRecord]]:
        """Blocks in which tokens merge, and a record of each other one."""
        if not blocks and others:
            name, reason = others[0]
            raise self.failure(name, f"{reason}. The model has no attention that tokens can merge behind.")
        if not blocks:
            msg = (
                f"Pass '{self.name}': found no attention, a Softmax over products of queries and keys. "
                "Tokens merge in transformers only; leave the pass out."
            )
            raise PassError(msg)
        names = [block.name for block in blocks] + [name for name, _ in others]
        for pattern in self.ignore:
            if not any(mark in pattern for mark in "*?[") and pattern not in names:
                raise PassError(f"Pass '{self.name}', option 'ignore': " + unknown("block", pattern, names))
        first = int(self.start * len(blocks))
        reasons = {block: self._reason(block, number < first) for number, block in enumerate(blocks)}
        skipped = [(block.name, reason) for block, reason in reasons.items() if reason] + others
        records = [LayerRecord(name, reason, skipped=True) for name, reason in skipped]
        return [block for block, reason in reasons.items() if not reason], records

    def _reason(self, block: Block, early: bool) -> str:
        if matches(block.name, self.ignore):
            return "it is in 'ignore'"
        return f"it comes before start={self.start:g}" if early else ""

    def _protected(self, model: ir.Model, first: Block) -> int:
        """How many tokens at the front never merge.

        Raises:
            PassError: If there are no more tokens than that.
        """
        tokens = first.shape[1]
        if self.protected is not None and self.protected >= tokens:
            reason = (
                f"option 'protected' is {self.protected}, but only {tokens} tokens reach it. "
                f"Choose less than {tokens}, or leave it out to find out."
            )
            raise self.failure(first.name, reason)
        return leading_tokens(model.graph, first) if self.protected is None else self.protected

    def _plan(self, counts: dict[Block, int], protected: int) -> Plan:
        return Plan(counts, protected, self.proportional, self.unmerge, self.metric)

    def _counts(self, model: ir.Model, blocks: list[Block], chosen: list[Block], protected: int) -> dict[Block, int]:
        """How many tokens merge in each chosen block."""
        number, tokens = len(chosen), blocks[0].shape[1]
        if self._target is not None:
            return self._counts_for_macs(model, blocks, chosen, protected, self._target)
        if self.r is not None:
            return self._legal(chosen, schedule(self.r, self.inflect, number), protected)
        assert self.ratio is not None
        return self._legal(chosen, shares(self.ratio, tokens, protected, number), protected)

    def _legal(self, chosen: list[Block], counts: Sequence[int], protected: int) -> dict[Block, int]:
        """The counts by block.

        Raises:
            PassError: If more tokens are to merge in a block than can.
        """
        number = first_excess(counts, chosen[0].shape[1], protected) if chosen else None
        if number is not None:
            tokens = chosen[0].shape[1] - sum(counts[:number])
            reason = (
                f"{counts[number]} of the {tokens} tokens that reach it are to merge, {protected} being protected; "
                f"at most {most_mergeable(tokens, protected)} can. Choose a smaller number, or ignore the block."
            )
            raise self.failure(chosen[number].name, reason)
        return dict(zip(chosen, counts, strict=True))

    def _counts_for_macs(
        self, model: ir.Model, blocks: list[Block], chosen: list[Block], protected: int, target: float
    ) -> dict[Block, int]:
        """The fewest with which the model keeps at most the share `target`: `r` is a multiple of 1 / blocks."""
        whole, tokens = multiply_accumulates(model), blocks[0].shape[1]

        def counts(steps: int) -> dict[Block, int]:
            wanted = spread(steps / max(1, len(chosen)), self.inflect, len(chosen))
            return dict(zip(chosen, capped(wanted, tokens, protected), strict=True))

        def share(steps: int) -> float:
            return self._macs_left(model, blocks, counts(steps), protected) / whole

        if target == 1:
            return counts(0)
        most = tokens * len(blocks)
        if (reached := share(most)) > target:
            msg = (
                f"Pass '{self.name}': option 'macs' is {target:g}, but with as many tokens merged as can be, "
                f"{reached:.4f} of the multiply-accumulates are left. Choose a larger share."
            )
            raise PassError(msg)
        return counts(least(lambda steps: share(steps) <= target, most))

    def _macs_left(self, model: ir.Model, blocks: list[Block], counts: dict[Block, int], protected: int) -> int:
        """Multiply-accumulates that are left, counted on a copy."""
        copy = model.clone()
        copies, _ = find_blocks(copy.graph)
        twins = dict(zip(blocks, copies, strict=True))
        plan = self._plan({twins[block]: count for block, count in counts.items()}, protected)
        rewrite(copy, copies, plan, self.failure)
        return multiply_accumulates(copy)


def _records(blocks: list[Block], counts: dict[Block, int]) -> list[LayerRecord]:
    left = [blocks[0].shape[1]]
    left += [left[0] - sum(list(counts.values())[: number + 1]) for number in range(len(counts))]
    pairs = zip(counts.items(), pairwise(left), strict=True)
    return [
        LayerRecord(block.name, f"{count} of {before} tokens merged, {after} left")
        for (block, count), (before, after) in pairs
        if count
    ]
