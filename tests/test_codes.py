import torch

from fastgan.codes import Codes


def views(count: int, seed: int = 0) -> list[torch.Tensor]:
    """Two views of pictures that differ in four ways."""
    generator = torch.Generator().manual_seed(seed)
    ways = torch.randn(count, 4, generator=generator)
    maps = [torch.randn(4, width, generator=torch.Generator().manual_seed(width)) for width in (12, 20)]
    return [5 * ways @ maps[0] + 3, 0.1 * ways @ maps[1]]


def test_codes_are_the_whitened_principal_components_of_views_that_count_alike():
    seen = views(256)
    codes = Codes.fit(seen, z_dim=4)
    scaled = torch.cat([(v - v.mean(0)) / v.var(0, correction=0).sum().sqrt() for v in seen], dim=1)
    ours = codes(seen)
    torch.testing.assert_close(ours.T @ ours / 256, torch.eye(4), atol=0.05, rtol=0)  # but for a few beyond its reach
    u, _, _ = torch.pca_lowrank(scaled, 4, niter=8)
    within = ours.abs().max(1).values < 3
    torch.testing.assert_close((u[within].abs() * 16), ours[within].abs(), atol=1e-3, rtol=1e-3)


def test_there_are_as_many_components_as_pictures_differ_in_and_none_where_they_are_all_alike():
    assert Codes.fit(views(256), z_dim=64)(views(8, seed=1)).shape == (8, 4)
    assert Codes.fit(views(256), z_dim=2)(views(8, seed=1)).shape == (8, 2)
    alike = [torch.full((256, 7), 0.3)]
    z = torch.randn(8, 16)
    assert torch.equal(Codes.fit(alike, z_dim=16).placed(z, [torch.full((8, 7), 0.3)], 0.6), z)


def test_latents_lie_around_codes_and_are_still_normal():
    seen = views(256)
    codes = Codes.fit(seen, z_dim=16)
    z = torch.randn(256, 16, generator=torch.Generator().manual_seed(2))
    placed = codes.placed(z, seen, noise=0.6)
    assert torch.equal(placed[:, 4:], z[:, 4:])
    torch.testing.assert_close(placed.std(0), torch.ones(16), atol=0.15, rtol=0)
    together = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(placed.T, codes(seen).T, strict=False)]
    )
    torch.testing.assert_close(together, torch.full((4,), 0.8), atol=0.06, rtol=0)


def test_an_outlier_has_a_code_that_a_latent_could_be():
    far = [100 * view for view in views(8, seed=1)]
    assert Codes.fit(views(256), z_dim=4)(far).abs().max() == 3
