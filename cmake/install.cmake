# The command, the tracepoints, and what lets other projects find them. find_package(cloister) gives the imported program
# cloister::cloister (for a budget in add_test), the library cloister::trace for programs with tracepoints, and
# cloister::trace_library for shared libraries with tracepoints, which leave the runtime to the program, and
# cloister::record for programs that record their events. pkg-config
# --variable=cloister gives the program's path, --cflags and --libs the library; those of cloister-record
# the recorder.
include(CMakePackageConfigHelpers)

install(TARGETS cloister cloister_trace cloister_trace_library cloister_record EXPORT cloister
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS cloister_preload LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/cloister)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/cloister DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT cloister NAMESPACE cloister:: FILE cloisterTargets.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cloister)

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/cloisterConfig.cmake.in ${PROJECT_BINARY_DIR}/cloisterConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cloister)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cloisterConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cloisterConfig.cmake ${PROJECT_BINARY_DIR}/cloisterConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cloister)

# Relative to the file itself, so that the tree may be installed with --prefix or DESTDIR and moved.
file(RELATIVE_PATH CLOISTER_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
foreach(file cloister.pc cloister-record.pc)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/${file}.in ${PROJECT_BINARY_DIR}/${file} @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${file} DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()

install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
