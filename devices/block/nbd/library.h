// libnbd(3), loaded when the first disk needs it: most machines have no such disk, and start faster for it.
#pragma once

#include <libnbd.h>

#include <memory>

namespace minivmm::nbd {

// Its functions, under their names without the nbd_. What they do is in their manual pages, nbd_pread(3) and
// so on.
struct Library {
  decltype(&::nbd_create) create = nullptr;
  decltype(&::nbd_close) close = nullptr;
  decltype(&::nbd_get_error) get_error = nullptr;
  decltype(&::nbd_add_meta_context) add_meta_context = nullptr;
  decltype(&::nbd_set_uri_allow_local_file) set_uri_allow_local_file = nullptr;
  decltype(&::nbd_aio_connect_uri) aio_connect_uri = nullptr;
  decltype(&::nbd_aio_connect_socket) aio_connect_socket = nullptr;
  decltype(&::nbd_aio_is_connecting) aio_is_connecting = nullptr;
  decltype(&::nbd_aio_is_ready) aio_is_ready = nullptr;
  decltype(&::nbd_aio_is_dead) aio_is_dead = nullptr;
  decltype(&::nbd_aio_is_closed) aio_is_closed = nullptr;
  decltype(&::nbd_aio_get_fd) aio_get_fd = nullptr;
  decltype(&::nbd_aio_get_direction) aio_get_direction = nullptr;
  decltype(&::nbd_aio_notify_read) aio_notify_read = nullptr;
  decltype(&::nbd_aio_notify_write) aio_notify_write = nullptr;
  decltype(&::nbd_aio_in_flight) aio_in_flight = nullptr;
  decltype(&::nbd_aio_disconnect) aio_disconnect = nullptr;
  decltype(&::nbd_aio_pread) aio_pread = nullptr;
  decltype(&::nbd_aio_pwrite) aio_pwrite = nullptr;
  decltype(&::nbd_aio_flush) aio_flush = nullptr;
  decltype(&::nbd_aio_trim) aio_trim = nullptr;
  decltype(&::nbd_aio_zero) aio_zero = nullptr;
  decltype(&::nbd_aio_block_status) aio_block_status = nullptr;
  decltype(&::nbd_get_size) get_size = nullptr;
  decltype(&::nbd_get_block_size) get_block_size = nullptr;
  decltype(&::nbd_is_read_only) is_read_only = nullptr;
  decltype(&::nbd_can_flush) can_flush = nullptr;
  decltype(&::nbd_can_trim) can_trim = nullptr;
  decltype(&::nbd_can_zero) can_zero = nullptr;
  decltype(&::nbd_can_meta_context) can_meta_context = nullptr;
};

inline constexpr const char* kLibraryFile = "libnbd.so.0";

// Throws HostError, which names the Debian package.
std::shared_ptr<const Library> load_library(const char* file = kLibraryFile);

}  // namespace minivmm::nbd
