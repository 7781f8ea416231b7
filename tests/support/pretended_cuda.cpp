// A CUDA that has four devices and does nothing: PyTorch's CPU build asks it for the current device, and lives.
#include <c10/core/impl/DeviceGuardImplInterface.h>

struct PretendedCuda final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return {c10::DeviceType::CUDA, 0}; }
  c10::DeviceIndex deviceCount() const noexcept override { return 4; }
};
C10_REGISTER_GUARD_IMPL(CUDA, PretendedCuda)
