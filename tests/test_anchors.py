import torch

from fastgan.anchors import Anchors, around


def views(count: int, seed: int = 0, scale: float = 1.0) -> list[torch.Tensor]:
    """Two views of pictures that differ in four ways."""
    ways = scale * torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    maps = [torch.randn(4, width, generator=torch.Generator().manual_seed(width)) for width in (12, 20)]
    return [5 * ways @ maps[0] + 3, 0.1 * ways @ maps[1]]


def test_anchors_are_whitened_principal_components_of_views_that_count_alike():
    seen = views(256)
    ours = Anchors.fit(seen, z_dim=4)(seen)
    scaled = torch.cat([(v - v.mean(0)) / v.var(0, correction=0).sum().sqrt() for v in seen], dim=1)
    theirs, _, _ = torch.pca_lowrank(scaled, 4, niter=8)
    within = ours.abs().max(1).values < 3
    assert within.sum() > 240
    torch.testing.assert_close(16 * theirs[within].abs(), ours[within].abs(), atol=1e-3, rtol=1e-3)


def test_there_are_as_many_components_as_pictures_differ_in_and_none_where_they_are_all_alike():
    assert Anchors.fit(views(256), z_dim=64)(views(8, seed=1)).shape == (8, 4)
    assert Anchors.fit(views(256), z_dim=2)(views(8, seed=1)).shape == (8, 2)
    alike = [torch.full((256, 7), 0.3)]
    z = torch.randn(8, 16)
    assert torch.equal(around(Anchors.fit(alike, z_dim=16)([torch.full((8, 7), 0.3)]), z, 0.6), z)


def test_latents_around_anchors_are_as_normal_as_others():
    seen = views(256)
    anchors = Anchors.fit(seen, z_dim=16)(seen)
    z = torch.randn(256, 16, generator=torch.Generator().manual_seed(2))
    near = around(anchors, z, spread=0.6)
    assert torch.equal(near[:, 4:], z[:, 4:])
    torch.testing.assert_close(near.mean(0), torch.zeros(16), atol=0.15, rtol=0)
    torch.testing.assert_close(near.std(0), torch.ones(16), atol=0.15, rtol=0)
    torch.testing.assert_close(near[:, :4], 0.8 * anchors + 0.6 * z[:, :4])


def test_an_outlier_has_an_anchor_that_a_latent_could_be():
    assert Anchors.fit(views(256), z_dim=4)(views(8, seed=1, scale=100)).abs().max() == 3


def test_components_of_before_are_fitted_to_other_pictures_and_stay_what_they_are():
    seen = views(256)
    others = [1.7 * seen[0] - 2, 1.7 * seen[1] + 1]
    anchors = Anchors.fit(seen, z_dim=4)
    again = anchors.refit(others)
    assert torch.equal(again(others), again.seen) and torch.equal(anchors(seen), anchors.seen)
    together = torch.corrcoef(torch.cat([anchors.seen, again.seen], dim=1).T)[:4, 4:].diagonal()
    assert together.min() > 0.98
    torch.testing.assert_close(again.seen.std(0), torch.ones(4), atol=0.02, rtol=0)
