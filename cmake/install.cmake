# SPDX-License-Identifier: Apache-2.0
# Everything that `cmake --install` installs: the library, its public headers, find_package(kumiko) and pkg-config.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kumiko)

install(TARGETS kumiko EXPORT kumikoTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  FILE_SET public_headers DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT kumikoTargets NAMESPACE kumiko:: DESTINATION ${package_dir})

# A component of its own, so that find_package(kumiko) needs no MPI.
if(KUMIKO_BUILD_MPI)
  install(TARGETS kumiko_mpi EXPORT kumikoMpiTargets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    FILE_SET public_headers DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT kumikoMpiTargets NAMESPACE kumiko:: DESTINATION ${package_dir})
endif()

# A shared libkumiko is linked with its dependencies; a static one leaves them to its users.
if(BUILD_SHARED_LIBS)
  set(kumiko_is_static OFF)
else()
  set(kumiko_is_static ON)
endif()
configure_package_config_file(cmake/kumikoConfig.cmake.in ${PROJECT_BINARY_DIR}/cmake/kumikoConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor release may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cmake/kumikoConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cmake/kumikoConfig.cmake ${PROJECT_BINARY_DIR}/cmake/kumikoConfigVersion.cmake
  DESTINATION ${package_dir})

# pkg-config. The prefix is relative to the file's own place, so that an installed tree can be moved. Libs.private instead of
# Requires.private: `pkg-config --static` would follow the latter into the private libraries of hwloc (libudev), which a system with a
# shared hwloc need not have.
list(JOIN hwloc_LDFLAGS " " pc_hwloc)
list(JOIN numa_LDFLAGS " " pc_numa)
set(pc_private_libs "${pc_hwloc} ${pc_numa}")
file(RELATIVE_PATH pc_to_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" pc_to_prefix "${pc_to_prefix}")
configure_file(cmake/kumiko.pc.in ${PROJECT_BINARY_DIR}/cmake/kumiko.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/cmake/kumiko.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
