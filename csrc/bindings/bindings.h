#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <span>

namespace sllm {

void bind_base(pybind11::module_& module);
void bind_io(pybind11::module_& module);
void bind_load(pybind11::module_& module);
void bind_memory(pybind11::module_& module);
void bind_store(pybind11::module_& module);
void bind_pool_devices(pybind11::module_& module);

// A read-only view of any contiguous Python buffer; valid while `source` lives.
std::span<const std::byte> bytes_of(const pybind11::buffer_info& source);

}  // namespace sllm
