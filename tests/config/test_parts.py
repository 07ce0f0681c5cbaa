"""Run folders and configurations that name targets as they were called before."""

from __future__ import annotations

import pytest

from mmtab.config.parts import current_target, with_current_targets


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("mmtab.encoders.text.TextEncoder", "mmtab.model.encoders.text.TextEncoder"),
        ("mmtab.heads.JointPairHead", "mmtab.model.heads.JointPairHead"),
        ("mmtab.fusion.FusionTransformer", "mmtab.model.fusion.FusionTransformer"),
        ("mmtab.models.PairModel", "mmtab.model.matcher.Matcher"),
        ("mmtab.models.ComparisonEncoder", "mmtab.model.encoders.similarity.SimilarityEncoder"),
        ("mmtab.model.fusion.MeanPoolFusion", "mmtab.model.fusion.MeanPoolFusion"),
        ("mine.encoders.Encoder", "mine.encoders.Encoder"),
    ],
)
def test_a_target_is_found_by_its_former_name(former: str, current: str) -> None:
    assert current_target(former) == current
    assert with_current_targets({"part": {"_target_": former, "n": 1}}) == {"part": {"_target_": current, "n": 1}}
