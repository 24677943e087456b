import torch

from mdhelpers.models import StackedCNN


def test_models_of_a_stack_do_not_touch_each_other():
    model = StackedCNN(3, (20, 24), 4, width=4)
    model.initialise([1, 2, 3])
    images = torch.randn(2, 9, 20, 24)
    before = model(images)
    images[:, 3:6] += 1
    after = model(images)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_shared_images_equal_repeated_ones():
    model = StackedCNN(3, (16, 16), 4, width=4)
    model.initialise([1, 2, 3])
    images = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(model.forward_shared(images), model(images.repeat(1, 3, 1, 1)))


def test_a_seed_gives_the_same_model_anywhere_in_a_stack():
    one, two = StackedCNN(2, (16, 16), 3, width=4), StackedCNN(2, (16, 16), 3, width=4)
    one.initialise([7, 8])
    two.initialise([8, 7])
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(one.forward_shared(images), two.forward_shared(images).flip(1))
