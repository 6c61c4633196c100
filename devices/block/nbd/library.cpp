#include "devices/block/nbd/library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cerrno>

#include "vmm/core/error.h"

namespace minivmm::nbd {

namespace {

[[noreturn]] void not_there(const char* file) {
  const char* const why = ::dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps one for each thread
  throw HostError(ENOENT, fmt::format("cannot load {}, which speaks to NBD servers: {}; install Debian's "
                                      "libnbd0 (apt-get install libnbd0)",
                                      file, why == nullptr ? "no reason given" : why));
}

}  // namespace

std::shared_ptr<const Library> load_library(const char* file) {
  // It keeps its errors in thread-local storage of threads that we do not know, so it is never unloaded.
  void* const loaded = ::dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (loaded == nullptr) not_there(file);
  auto library = std::make_shared<Library>();
  const auto find = [&]<class Function>(const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(loaded, name));
    if (function == nullptr) not_there(file);
  };
  find("nbd_create", library->create);
  find("nbd_close", library->close);
  find("nbd_get_error", library->get_error);
  find("nbd_add_meta_context", library->add_meta_context);
  find("nbd_set_uri_allow_local_file", library->set_uri_allow_local_file);
  find("nbd_aio_connect_uri", library->aio_connect_uri);
  find("nbd_aio_connect_socket", library->aio_connect_socket);
  find("nbd_aio_is_connecting", library->aio_is_connecting);
  find("nbd_aio_is_ready", library->aio_is_ready);
  find("nbd_aio_is_dead", library->aio_is_dead);
  find("nbd_aio_is_closed", library->aio_is_closed);
  find("nbd_aio_get_fd", library->aio_get_fd);
  find("nbd_aio_get_direction", library->aio_get_direction);
  find("nbd_aio_notify_read", library->aio_notify_read);
  find("nbd_aio_notify_write", library->aio_notify_write);
  find("nbd_aio_in_flight", library->aio_in_flight);
  find("nbd_aio_disconnect", library->aio_disconnect);
  find("nbd_aio_pread", library->aio_pread);
  find("nbd_aio_pwrite", library->aio_pwrite);
  find("nbd_aio_flush", library->aio_flush);
  find("nbd_aio_trim", library->aio_trim);
  find("nbd_aio_zero", library->aio_zero);
  find("nbd_aio_block_status", library->aio_block_status);
  find("nbd_get_size", library->get_size);
  find("nbd_get_block_size", library->get_block_size);
  find("nbd_is_read_only", library->is_read_only);
  find("nbd_can_flush", library->can_flush);
  find("nbd_can_trim", library->can_trim);
  find("nbd_can_zero", library->can_zero);
  find("nbd_can_meta_context", library->can_meta_context);
  return library;
}

}  // namespace minivmm::nbd
