# `cmake --install`: the library, its headers, pkg-config and CMake package files.
include(CMakePackageConfigHelpers)
install(TARGETS minivmm EXPORT minivmm-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY vmm devices virtio boot DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/minivmm
        FILES_MATCHING PATTERN "*.h")
install(EXPORT minivmm-targets NAMESPACE minivmm:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/minivmm)
configure_package_config_file(cmake/minivmm-config.cmake.in ${CMAKE_BINARY_DIR}/minivmm-config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/minivmm)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/minivmm-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/minivmm-config.cmake ${CMAKE_BINARY_DIR}/minivmm-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/minivmm)
# From where the .pc file lies to the prefix, so that an installed tree can be moved, and --prefix be given late.
file(RELATIVE_PATH MINIVMM_TO_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/minivmm.pc.in ${CMAKE_BINARY_DIR}/minivmm.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/minivmm.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
