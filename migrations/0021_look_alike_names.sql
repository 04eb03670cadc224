-- Names that look alike: in capitals and small letters, in another width, or in letters of another script. A new name must not look
-- like one that is in use beside it; names that do so already stay. The expression is the one of the function
-- `refuse_look_alike`.
--
-- Changes of these tables wait while their index is made: less than a second for a hundred thousand rows.
create index org_look on org ((translate(lower(normalize(name, nfkc)), 'авсԁеһніјкӏморԛѕтуүѵԝхαβεηικμνορτυχγζωıАВСԀЕҺНІЈКӀМОРԚЅТУҮѴԜХΑΒΕΗΙΚΜΝΟΡΤΥΧΓΖΩ', 'abcdehhijklmopqstyyvwxabehikmvoptuxyzwiabcdehhijklmopqstyyvwxabehikmvoptuxyzw'))) where deleted_at is null;
create index team_look on team (org_id, (translate(lower(normalize(name, nfkc)), 'авсԁеһніјкӏморԛѕтуүѵԝхαβεηικμνορτυχγζωıАВСԀЕҺНІЈКӀМОРԚЅТУҮѴԜХΑΒΕΗΙΚΜΝΟΡΤΥΧΓΖΩ', 'abcdehhijklmopqstyyvwxabehikmvoptuxyzwiabcdehhijklmopqstyyvwxabehikmvoptuxyzw'))) where deleted_at is null;
create index app_user_look on app_user (org_id, (translate(lower(normalize(name, nfkc)), 'авсԁеһніјкӏморԛѕтуүѵԝхαβεηικμνορτυχγζωıАВСԀЕҺНІЈКӀМОРԚЅТУҮѴԜХΑΒΕΗΙΚΜΝΟΡΤΥΧΓΖΩ', 'abcdehhijklmopqstyyvwxabehikmvoptuxyzwiabcdehhijklmopqstyyvwxabehikmvoptuxyzw'))) where deleted_at is null;
create index identity_provider_look on identity_provider ((translate(lower(normalize(name, nfkc)), 'авсԁеһніјкӏморԛѕтуүѵԝхαβεηικμνορτυχγζωıАВСԀЕҺНІЈКӀМОРԚЅТУҮѴԜХΑΒΕΗΙΚΜΝΟΡΤΥΧΓΖΩ', 'abcdehhijklmopqstyyvwxabehikmvoptuxyzwiabcdehhijklmopqstyyvwxabehikmvoptuxyzw'))) where deleted_at is null;
