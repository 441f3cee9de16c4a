# The command, and what lets other projects find it: find_package(cloister) gives the imported program
# cloister::cloister (for a budget in add_test), pkg-config --variable=cloister its path.
include(CMakePackageConfigHelpers)

install(TARGETS cloister EXPORT cloister RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(EXPORT cloister NAMESPACE cloister:: FILE cloisterTargets.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cloister)

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/cloisterConfig.cmake.in ${PROJECT_BINARY_DIR}/cloisterConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cloister)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cloisterConfigVersion.cmake COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/cloisterConfig.cmake ${PROJECT_BINARY_DIR}/cloisterConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cloister)

# Relative to the file itself, so that the tree may be installed with --prefix or DESTDIR and moved.
file(RELATIVE_PATH CLOISTER_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_CURRENT_LIST_DIR}/cloister.pc.in ${PROJECT_BINARY_DIR}/cloister.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/cloister.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
