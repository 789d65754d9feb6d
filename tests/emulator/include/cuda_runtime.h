// In place of the toolkit's header, for sources with kernels. The one runtime call there is is the launch.
#pragma once

#include <utility>

#include "emulator.h"

namespace emulator {
template <class... P, size_t... I>
cudaError_t launchWith(void (*kernel)(P...), dim3 grid, dim3 block, void** arguments, size_t shared,
                       std::index_sequence<I...>) {
  // Arguments are copied at the launch, as CUDA does.
  const std::tuple<std::remove_cv_t<P>...> values(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
  const size_t bytes = (size_t{0} + ... + sizeof(P));
  return launch(grid, block, shared, bytes, [&] { std::apply(kernel, values); });
}
}  // namespace emulator

template <class... P>
cudaError_t cudaLaunchKernel(void (*kernel)(P...), dim3 grid, dim3 block, void** arguments, size_t shared = 0,
                             cudaStream_t = nullptr) {
  return emulator::launchWith(kernel, grid, block, arguments, shared, std::index_sequence_for<P...>{});
}
