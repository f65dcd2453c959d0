import pytest
import torch

from model.schedule import flow_sigmas, unipc_stepper, zero_snr_levels


def test_entry_220_of_the_zero_snr_levels_is_the_one_super_resolution_uses():
    assert zero_snr_levels()[220].item() == pytest.approx(0.8389, abs=5e-5)


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_flow_sigmas_name_a_bad_number_of_steps(num_steps):
    with pytest.raises(ValueError, match=rf"num_steps must be between 1 and 1000, got {num_steps}"):
        flow_sigmas(num_steps, shift=5.0)


def test_stepper_ends_at_the_clean_sample():
    # With the exact velocity of a straight path, every step must stay on it and the last must land on the clean end.
    clean, noise = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    stepper = unipc_stepper(8, shift=5.0)
    sample = stepper.sigmas[0] * noise + (1 - stepper.sigmas[0]) * clean
    for step, timestep in enumerate(stepper.timesteps):
        sample = stepper.step(noise - clean, timestep, sample, return_dict=False)[0]
        on_path = stepper.sigmas[step + 1] * noise + (1 - stepper.sigmas[step + 1]) * clean
        torch.testing.assert_close(sample, on_path, atol=1e-5, rtol=1e-5)
