// libarchive(3), loaded when a machine gets a disk made for it: most get none, and start faster for it.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <memory>

namespace minivmm {

// Its functions, under their names without the archive_. What they do is in their manual pages,
// archive_write_new(3) and so on.
struct ArchiveLibrary {
  decltype(&::archive_write_new) write_new = nullptr;
  decltype(&::archive_write_free) write_free = nullptr;
  decltype(&::archive_write_set_format_iso9660) write_set_format_iso9660 = nullptr;
  decltype(&::archive_write_set_options) write_set_options = nullptr;
  decltype(&::archive_write_open_fd) write_open_fd = nullptr;
  decltype(&::archive_write_header) write_header = nullptr;
  decltype(&::archive_write_data) write_data = nullptr;
  decltype(&::archive_write_close) write_close = nullptr;
  decltype(&::archive_error_string) error_string = nullptr;
  decltype(&::archive_entry_new) entry_new = nullptr;
  decltype(&::archive_entry_free) entry_free = nullptr;
  decltype(&::archive_entry_set_pathname) entry_set_pathname = nullptr;
  decltype(&::archive_entry_set_filetype) entry_set_filetype = nullptr;
  decltype(&::archive_entry_set_perm) entry_set_perm = nullptr;
  decltype(&::archive_entry_set_size) entry_set_size = nullptr;
  decltype(&::archive_entry_set_mtime) entry_set_mtime = nullptr;
};

inline constexpr const char* kArchiveLibraryFile = "libarchive.so.13";

// Unloaded when the last one lets go of it. Throws HostError, which names the Debian package.
std::shared_ptr<const ArchiveLibrary> load_archive_library(const char* file = kArchiveLibraryFile);

}  // namespace minivmm
