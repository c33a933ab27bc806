import pytest
import torch

from fastgan.augment import augment, color, cutout, translation

ALL = ["color", "translation", "cutout"]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("policy", [[name] for name in ALL] + [ALL])
def test_changes_keep_the_shape_and_pass_gradients(channels, policy):
    x = (torch.rand(3, channels, 32, 48) * 2 - 1).requires_grad_()
    changed = augment(x, policy)
    assert changed.shape == x.shape
    assert not torch.equal(changed, x)
    changed.square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_no_policy_changes_nothing():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(augment(x, []), x)


def test_color_leaves_transparency_alone():
    x = torch.rand(4, 4, 8, 8)
    assert torch.equal(color(x)[:, 3], x[:, 3])


def test_translation_moves_whole_pixels_up_to_an_eighth():
    torch.manual_seed(0)
    x = torch.rand(64, 1, 32, 32) + 1
    moved = translation(x)
    shifts = set()
    for before, after in zip(x[:, 0], moved[:, 0], strict=True):
        rows, columns = torch.where(after > 0)
        dy = rows.min().item() or rows.max().item() - 31
        dx = columns.min().item() or columns.max().item() - 31
        kept = torch.zeros_like(before)
        kept[max(0, dy) : 32 + min(0, dy), max(0, dx) : 32 + min(0, dx)] = before[
            max(0, -dy) : 32 - max(0, dy), max(0, -dx) : 32 - max(0, dx)
        ]
        assert torch.equal(after, kept)
        shifts |= {dy, dx}
    assert shifts == set(range(-4, 5))


def test_translation_can_keep_to_a_raster_that_a_thin_frame_does_not_fit():
    torch.manual_seed(0)
    x = torch.zeros(400, 1, 64, 128)
    x[:, :, 0, 0] = 1  # moved out of sight, or to where the shift puts it
    moved = translation(x, places=32)[:, 0]
    _, rows, columns = torch.where(moved > 0)
    assert set(rows.tolist()) == set(range(0, 9, 2)) and set(columns.tolist()) == set(range(0, 17, 4))


@pytest.mark.parametrize("change", [translation, cutout])
def test_where_a_transparent_picture_is_not_nothing_is_seen(change):
    torch.manual_seed(0)
    changed = change(torch.ones(50, 4, 32, 32))
    outside = changed[:, 3] == -1
    assert outside.any()
    assert (changed[:, :3].permute(0, 2, 3, 1)[outside] == 0).all() and (changed[:, 3][~outside] == 1).all()


def test_cutout_takes_at_most_a_quarter_and_never_all():
    torch.manual_seed(0)
    gone = (cutout(torch.ones(200, 1, 32, 32)) == 0).float().mean(dim=(1, 2, 3))
    assert gone.max() <= 0.25 and gone.min() > 0
